//! A version that never returns.

evil::victim!("2.0.5", |_, _| while std::hint::black_box(true) {});
