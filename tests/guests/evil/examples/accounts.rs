//! A keyed process, for scenarios.

evil::accounts!("accounts", "1.0.0", account, || {}, sum {}, state {});
