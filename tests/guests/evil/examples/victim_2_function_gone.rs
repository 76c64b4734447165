//! A version that lacks the function that pipelines use.

fn victim_filter(text: &str) -> bool {
    text != evil::POISON
}

kindling_guest::plugin! {
    name: "victim",
    version: "2.3.0",
    filters: [
        /// Keeps what is not poisoned.
        victim_filter,
    ],
}
