//! A version whose function takes integers: the pipelines that use it don't fit any more.

kindling_guest::state! {
    #[derive(Default)]
    struct Victim { count: i64, poisoned: bool }
}

impl Victim {
    fn update(&mut self, _: i64) {
        self.count += 1;
    }
    fn merge(&mut self, other: Self) {
        self.count += other.count;
    }
    fn finish(&self) -> i64 {
        self.count
    }
}

kindling_guest::plugin! {
    name: "victim",
    version: "2.2.0",
    aggregates: [
        /// How many integers are not null.
        victim_count: Victim,
    ],
}
