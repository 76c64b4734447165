//! Two functions have the same name.

evil::described!(evil::description("twice", vec![evil::function("twice"), evil::function("twice")]));
