//! A version that traps on poisoned rows only.

evil::victim!("2.0.1", |stage, poisoned| assert!(stage != evil::victim::Stage::Update || !poisoned));
