//! It has no functions.

evil::described!(evil::description("nothing", Vec::new()));
