//! A function has a name that SQL would not find.

evil::described!(evil::description("shouting", vec![evil::function("Is Human!")]));
