//! Lets go of what takes its time to go: Kafka's clients wait up to 100 ms for their own threads when they are dropped, and nobody needs to
//! wait for that while a job starts.

use std::ops::Deref;

/// Holds a value that is dropped on a thread of its own.
pub struct Later<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Later<T> {
    /// Holds `value`.
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T: Send + 'static> Deref for Later<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("only `drop` takes it")
    }
}

impl<T: Send + 'static> Drop for Later<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        // Where no thread can be had, the closure is dropped here, and the value with it.
        let _ = std::thread::Builder::new().name("release".into()).spawn(move || drop(value));
    }
}
