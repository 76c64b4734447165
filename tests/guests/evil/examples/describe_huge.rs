//! It has more functions than anybody would list.

evil::described!(evil::description("huge", (0..200_000).map(|i| evil::function(&format!("function_{i}"))).collect()));
