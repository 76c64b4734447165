//! A version whose finish traps.

evil::victim!("2.0.4", |stage, _| assert_ne!(stage, evil::victim::Stage::Finish));
