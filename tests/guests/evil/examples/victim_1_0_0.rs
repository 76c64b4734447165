//! A good version.

evil::victim!("1.0.0", |_, _| {});
