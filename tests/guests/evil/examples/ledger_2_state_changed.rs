//! A version that keeps more.

evil::accounts!("ledger", "2.0.0", ledger, || {}, sum {}, state { more });
