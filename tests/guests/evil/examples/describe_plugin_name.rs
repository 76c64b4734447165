//! The plugin has no name.

evil::described!(evil::description("", vec![evil::function("nameless")]));
