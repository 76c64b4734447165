//! An aggregate has no state.

evil::described!(evil::description(
    "stateless",
    vec![kindling_guest::types::Function { kind: kindling_guest::types::Kind::Aggregate, ..evil::function("stateless") }]
));
