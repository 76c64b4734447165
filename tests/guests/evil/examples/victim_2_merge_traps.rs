//! A version whose merge traps.

evil::victim!("2.0.2", |stage, _| assert_ne!(stage, evil::victim::Stage::Merge));
