//! Its version is none.

evil::described!(kindling_guest::types::Description {
    version: "the latest".into(),
    ..evil::description("unversioned", vec![evil::function("unversioned")])
});
