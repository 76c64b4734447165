//! Guests that do everything wrong, for tests of the host. Each file in `examples/` becomes an artefact; nothing here is for use.
//!
//! What goes wrong goes wrong on a row with the text [`POISON`]; without such a row these guests behave. So a test can say both: the
//! error is clear, and the job goes on without the row.

pub mod accounts;
pub mod misdeeds;
pub mod victim;

/// The text that makes a guest misbehave.
pub const POISON: &str = "poison";

/// Exports a plugin whose description is what is wrong with it.
#[macro_export]
macro_rules! described {
    ($description:expr) => {
        struct Exports;

        impl kindling_guest::bindings::Guest for Exports {
            fn describe() -> kindling_guest::types::Description {
                $description
            }
            fn filter(_: u32, _: u32, _: Vec<kindling_guest::types::Column>) -> Result<Vec<u8>, kindling_guest::types::Failure> {
                unreachable!("nobody calls a plugin with such a description")
            }
            fn scalar(
                _: u32,
                _: u32,
                _: Vec<kindling_guest::types::Column>,
            ) -> Result<kindling_guest::types::Column, kindling_guest::types::Failure> {
                unreachable!("nobody calls a plugin with such a description")
            }
            fn describeflatmaps() -> Vec<kindling_guest::types::Flatmapfunction> {
                Vec::new()
            }
            fn flatmap(
                _: u32,
                _: u32,
                _: Vec<kindling_guest::types::Column>,
            ) -> Result<kindling_guest::types::Flatrows, kindling_guest::types::Failure> {
                unreachable!("nobody calls a plugin with such a description")
            }
            fn accumulate(
                _: u32,
                _: Vec<u32>,
                _: u32,
                _: Vec<kindling_guest::types::Column>,
            ) -> Result<Vec<kindling_guest::types::Column>, kindling_guest::types::Failure> {
                unreachable!("nobody calls a plugin with such a description")
            }
            fn merge(
                _: u32,
                _: Vec<u32>,
                _: u32,
                _: Vec<kindling_guest::types::Column>,
            ) -> Result<Vec<kindling_guest::types::Column>, kindling_guest::types::Failure> {
                unreachable!("nobody calls a plugin with such a description")
            }
            fn finish(
                _: u32,
                _: u32,
                _: Vec<kindling_guest::types::Column>,
            ) -> Result<kindling_guest::types::Column, kindling_guest::types::Failure> {
                unreachable!("nobody calls a plugin with such a description")
            }
        }

        #[cfg(target_arch = "wasm32")]
        kindling_guest::bindings::export_plugin!(Exports with_types_in kindling_guest::bindings);
    };
}

use kindling_guest::types::{Datatype, Description, Function, Kind};

/// A description with nothing wrong, of a plugin with these functions.
pub fn description(name: &str, functions: Vec<Function>) -> Description {
    Description { name: name.into(), version: "1.0.0".into(), sdk: "evil".into(), functions }
}

/// A filter of a text with nothing wrong.
pub fn function(name: &str) -> Function {
    Function {
        name: name.into(),
        kind: Kind::Filter,
        doc: "Not for use.".into(),
        arguments: vec![Datatype::Utf8],
        result: Datatype::Boolean,
        state: Vec::new(),
    }
}
