//! A function is called like a built-in one.

evil::described!(evil::description("impostor", vec![evil::function("count")]));
