//! Write Kindling's aggregates, filters, scalar functions and flat maps in Rust; this crate turns them into a
//! WebAssembly plugin.
//!
//! ```
//! use kindling_guest::{plugin, state};
//!
//! state! {
//!     #[derive(Default)]
//!     struct Average { sum: f64, count: i64 }
//! }
//!
//! impl Average {
//!     fn update(&mut self, value: f64) {
//!         self.sum += value;
//!         self.count += 1;
//!     }
//!     fn merge(&mut self, other: Self) {
//!         self.sum += other.sum;
//!         self.count += other.count;
//!     }
//!     fn finish(&self) -> Option<f64> {
//!         (self.count > 0).then(|| self.sum / self.count as f64)
//!     }
//! }
//!
//! fn is_long(text: &str, length: i64) -> bool {
//!     text.chars().count() as i64 > length
//! }
//!
//! plugin! {
//!     name: "example",
//!     version: "1.0.0",
//!     aggregates: [
//!         /// The arithmetic mean of all values that are not null.
//!         average: Average,
//!     ],
//!     filters: [
//!         /// Keeps texts of more than so many characters.
//!         is_long,
//!     ],
//!     scalars: [],
//! }
//!
//! // The same code, natively:
//! use kindling_guest::testing::{self, Rows};
//! assert_eq!(testing::aggregate(plugin(), "average", &Rows::of([Some(1.0), None, Some(2.0)])), Ok(Some(1.5)));
//! assert_eq!(testing::filter(plugin(), "is_long", &Rows::of(["tea", "coffee"]).constant(3)), Ok(vec![false, true]));
//! ```
//!
//! # What may stand where
//! - **Arguments**, 1 to 6: `bool`, `i64`, `f64`, [`Timestamp`], `&str`, `&[u8]`, and `Option` of each. A row with a null in an
//!   argument that isn't an `Option` never reaches the function: an aggregate skips it, a filter drops it, a scalar function
//!   gives null.
//! - **Results**: the same types owned (`String`, `Vec<u8>`, [`InlineStr`] for short text without an allocation), `Option` of
//!   them for null. A filter gives `bool`. A [flat map](flatmap) gives none, one or many rows.
//! - **State**: a struct of scalars by [`state!`], or anything that serde can write by [`msgpack_state!`]. `Default` is the
//!   state of no rows: merging it into a state changes nothing.
//! - **Refusing a row**: any function may return `Result<_, E>` with an `E` that can be displayed. The row goes to the rejects with
//!   that text, the other rows go on. A panic also costs only the rows at fault, but its text is lost and finding them takes
//!   time: refuse instead.
//!
//! # Laws
//! An aggregate is a commutative monoid: rows may come in any order, in any batches, and states may be merged in any order.
//! [`testing::laws`] tries that on rows of yours.
//!
//! # The parts
//! [`plugin!`] names the functions; [`state`](mod@state) is how states travel; [`read`] and [`write`](mod@write) are columns to values and
//! back; [`aggregate`], [`rowwise`] and [`flatmap`] hold the loops over rows; [`bindings`] is the interface itself.

pub mod aggregate;
#[rustfmt::skip]
pub mod bindings;
pub mod flatmap;
pub mod keyed;
#[cfg(feature = "msgpack")]
pub mod pattern;
pub mod plugin;
pub mod process;
#[rustfmt::skip]
pub mod process_bindings;
pub mod processes;
pub mod read;
pub mod rowwise;
pub mod state;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod text;
pub mod write;

// The examples in the README are tests too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use bindings::kindling::plugin::types;
pub use flatmap::Emit;
pub use keyed::Pass;
pub use plugin::Plugin;
pub use process::{Context, Process, Refusal};
pub use processes::Processes;
pub use read::Timestamp;
pub use text::InlineStr;
