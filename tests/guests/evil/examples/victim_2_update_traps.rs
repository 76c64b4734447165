//! A version that traps on every row.

evil::victim!("2.0.0", |stage, _| assert_ne!(stage, evil::victim::Stage::Update));
