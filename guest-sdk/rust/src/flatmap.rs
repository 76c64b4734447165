//! Flat maps: functions of a row that give none, one or many, and the loop over rows.
//!
//! ```
//! use kindling_guest::{Emit, output, plugin};
//!
//! output! {
//!     /// A word of a text.
//!     struct Word { word: String, position: i64 }
//! }
//!
//! fn words(out: &mut Emit<Word>, text: &str) {
//!     for (i, word) in text.split_whitespace().enumerate() {
//!         out.push(Word { word: word.into(), position: i as i64 });
//!     }
//! }
//!
//! plugin! {
//!     name: "texts",
//!     version: "1.0.0",
//!     flatmaps: [
//!         /// A row for each word.
//!         words,
//!     ],
//! }
//!
//! use kindling_guest::testing::{self, Rows};
//! let given = testing::flatmap::<Word>(plugin(), "words", &Rows::of(["a bit", "", "more"])).unwrap();
//! assert_eq!(given.iter().map(|(row, w)| (*row, w.word.as_str())).collect::<Vec<_>>(), [(0, "a"), (0, "bit"), (2, "more")]);
//! ```

use crate::keyed::Outputs;
use crate::rowwise::{Args, Update, for_rows, whole};
use crate::state::State;
use crate::types::{Column, Failure, Flatmapfunction, Flatrows, Resultcolumn};
use crate::write::Done;

/// Takes the rows that a flat map gives for the row at hand. `T` is declared by [`output!`](crate::output!); each of its fields becomes a
/// column behind those of the row that came in.
pub struct Emit<T> {
    row: u32,
    from: Vec<u32>,
    rows: Vec<T>,
}

impl<T> Emit<T> {
    /// Gives one more row.
    #[inline]
    pub fn push(&mut self, row: T) {
        self.from.push(self.row);
        self.rows.push(row);
    }
}

impl<T> Extend<T> for Emit<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, rows: I) {
        rows.into_iter().for_each(|row| self.push(row));
    }
}

type Run = Box<dyn Fn(usize, &[Column]) -> Result<Flatrows, Failure> + Send + Sync>;

/// One flat map of a plugin.
pub struct FlatMap {
    description: Flatmapfunction,
    run: Run,
}

impl FlatMap {
    /// The flat map `function`.
    pub fn of<T, M, F>(name: &str, doc: &str, function: F) -> Self
    where
        T: State + Outputs + 'static,
        F: Update<Emit<T>, M> + Send + Sync + 'static,
    {
        let results = T::fields().into_iter().map(|field| Resultcolumn { name: field.name, type_: field.type_ });
        let (name, doc, arguments) = (name.into(), doc.trim().into(), F::Args::types());
        Self {
            description: Flatmapfunction { name, doc, arguments, results: results.collect() },
            run: Box::new(move |rows, columns| run(&function, rows, columns)),
        }
    }

    /// What it is.
    pub fn describe(&self) -> Flatmapfunction {
        self.description.clone()
    }

    /// The rows that it gives for `rows` rows.
    ///
    /// # Errors
    /// The columns don't fit, or a row was refused.
    pub fn call(&self, rows: usize, columns: &[Column]) -> Result<Flatrows, Failure> {
        (self.run)(rows, columns)
    }
}

/// The rows of `function` for `rows` rows.
///
/// # Errors
/// The columns don't fit, or a row was refused.
pub fn run<T: State, M, F: Update<Emit<T>, M>>(function: &F, rows: usize, columns: &[Column]) -> Result<Flatrows, Failure> {
    let mut out = Emit { row: 0, from: Vec::with_capacity(rows), rows: Vec::with_capacity(rows) };
    for_rows::<F::Args>(columns, rows, |row, items| match items {
        // A call has less than 2^32 rows: their number comes as one.
        Some(items) => {
            out.row = row as u32;
            function.call(&mut out, items).done()
        }
        None => Ok(()),
    })?;
    Ok(Flatrows { rows: out.from, columns: T::write(out.rows).map_err(whole)? })
}
