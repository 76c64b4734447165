//! A keyed process of which other versions are swapped in.

evil::accounts!("ledger", "1.0.0", ledger, || {}, sum {}, state {});
