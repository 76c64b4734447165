//! A filter gives integers.

evil::described!(evil::description(
    "number_filter",
    vec![kindling_guest::types::Function { result: kindling_guest::types::Datatype::Int64, ..evil::function("number_filter") }]
));
