//! Which Arrow layout strings are decoded into: ns of CPU a row (least of the repeats) for plain, view and dictionary columns.
//!
//! Measured, on two key columns of 8,192-row batches with few and with many distinct values: appending borrowed text to the builder, the test
//! `= 'x'`, numbering the rows by group (DataFusion's `GroupValues`), and what it takes to hand the column to a guest, which gets offsets and
//! data: nothing for a plain one, a cast for the others. Not measured: strings of more than 12 bytes that many rows share, where views copy less.
//! One thread; `cargo run --release --example string_columns`.

use arrow::array::{Array, ArrayRef, StringArray, StringBuilder, StringDictionaryBuilder, StringViewBuilder};
use arrow::compute::cast;
use arrow::compute::kernels::cmp::eq;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use datafusion_physical_plan::aggregates::group_values::new_group_values;
use datafusion_physical_plan::aggregates::order::GroupOrdering;
use std::hint::black_box;
use std::sync::Arc;

const BATCH_ROWS: usize = 8_192;
const BATCHES: usize = 64;
const REPEATS: usize = 7;
/// A comparison is too quick for the clock to be told of one pass.
const PASSES: usize = 32;

type Build = fn(&[String]) -> ArrayRef;

fn main() {
    println!("| distinct values | layout | append | = 'x' | number groups | for a guest | sum |\n|---|---|---|---|---|---|---|");
    for distinct in [16, 1_024, 65_536] {
        let batches: Vec<Vec<String>> =
            (0..BATCHES).map(|b| (0..BATCH_ROWS).map(|r| text(b * BATCH_ROWS + r, distinct)).collect()).collect();
        for (name, build) in [("plain", plain as Build), ("view", view), ("dictionary", dictionary)] {
            let append = least(|| batches.iter().for_each(|b| drop(black_box(build(b)))));
            let columns: Vec<ArrayRef> = batches.iter().map(|b| build(b)).collect();
            let kind = columns[0].data_type().clone();
            let wanted = cast(&StringArray::from(vec!["experiment-7"]), &kind).expect("a cast of one text");
            let wanted = arrow::array::Scalar::new(wanted);
            let compare = || columns.iter().for_each(|c| drop(black_box(eq(c, &wanted).expect("comparable"))));
            let equal = least(|| (0..PASSES).for_each(|_| compare())) / PASSES as f64;
            let schema = Arc::new(Schema::new(vec![Field::new("a", kind.clone(), true), Field::new("b", kind.clone(), true)]));
            let number = least(|| {
                let mut groups = new_group_values(Arc::clone(&schema), &GroupOrdering::None).expect("groups of strings");
                let mut numbers = Vec::with_capacity(BATCH_ROWS);
                for column in &columns {
                    groups.intern(&[Arc::clone(column), Arc::clone(column)], &mut numbers).expect("numbered");
                }
                black_box(groups.len());
            });
            let guest = least(|| columns.iter().for_each(|c| drop(black_box(cast(c, &DataType::Utf8).expect("to plain")))));
            let sum = append + equal + number + guest;
            println!("| {distinct} | {name} | {append:.1} | {equal:.1} | {number:.1} | {guest:.1} | {sum:.1} |");
        }
    }
}

/// Value of row `i`, spread over `distinct` ones.
fn text(i: usize, distinct: usize) -> String {
    format!("experiment-{}", (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 & (distinct as u64 - 1))
}

fn plain(values: &[String]) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(values.len(), values.len() * 16);
    values.iter().for_each(|v| builder.append_value(v));
    Arc::new(builder.finish())
}

fn view(values: &[String]) -> ArrayRef {
    let mut builder = StringViewBuilder::with_capacity(values.len());
    values.iter().for_each(|v| builder.append_value(v));
    Arc::new(builder.finish())
}

fn dictionary(values: &[String]) -> ArrayRef {
    let mut builder = StringDictionaryBuilder::<Int32Type>::new();
    values.iter().for_each(|v| builder.append_value(v));
    Arc::new(builder.finish())
}

/// Least ns of CPU a row.
fn least(mut run: impl FnMut()) -> f64 {
    let times = (0..REPEATS).map(|_| {
        let before = cpu_ns();
        run();
        (cpu_ns() - before) as f64 / (BATCHES * BATCH_ROWS) as f64
    });
    times.fold(f64::MAX, f64::min)
}

/// CPU time of this thread so far (Linux), so that a busy machine disturbs less.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|t| t.parse().ok()).unwrap_or(0)
}
