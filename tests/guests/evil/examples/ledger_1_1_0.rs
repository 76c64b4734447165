//! A good version that may follow 1.0.0: its results have a column more.

evil::accounts!("ledger", "1.1.0", ledger, || {}, sum { again }, state {});
