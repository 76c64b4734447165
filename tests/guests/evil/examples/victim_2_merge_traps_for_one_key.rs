//! A version whose merge traps for keys that saw a poisoned row.

evil::victim!("2.0.3", |stage, poisoned| assert!(stage != evil::victim::Stage::Merge || !poisoned));
