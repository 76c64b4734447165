//! A good version that may follow 1.0.0.

evil::victim!("1.1.0", |_, _| {});
