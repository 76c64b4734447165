//! The interface that this crate carries is the project's.

#[test]
fn the_copy_of_the_interface_is_up_to_date() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/plugin.wit");
    // Outside the project's tree (a packaged crate) there is nothing to compare with.
    if let Ok(project) = std::fs::read_to_string(root) {
        let hint = "copy wit/plugin.wit to guest-sdk/rust/wit/, then run `cargo run --release` in guest-sdk/rust/bindgen";
        assert!(project == include_str!("../wit/plugin.wit"), "the SDK's copy of the interface differs: {hint}");
    }
}
