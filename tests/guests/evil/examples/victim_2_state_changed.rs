//! A version whose state has another layout: it can't take over the old one's states.

kindling_guest::state! {
    #[derive(Default)]
    struct Victim { count: f64, poisoned: bool }
}

impl Victim {
    fn update(&mut self, _: &str) {
        self.count += 1.0;
    }
    fn merge(&mut self, other: Self) {
        self.count += other.count;
    }
    fn finish(&self) -> i64 {
        self.count as i64
    }
}

kindling_guest::plugin! {
    name: "victim",
    version: "2.1.0",
    aggregates: [
        /// How many texts are not null.
        victim_count: Victim,
    ],
}
