//! A version that traps on every row.

evil::accounts!("ledger", "2.0.0", ledger, || panic!("every row"), sum {}, state {});
