//! What a call of a guest costs, at 8,192 rows: an average over 16 and over 8,192 groups, a prefix filter on strings, gcd of two columns.
//!
//!     cargo run --release --example guest_boundary -- GUESTS/test/bench.wasm
//!
//! GUESTS is made by `tests/guests/build GUESTS`. Measured: the DataFusion function as a pipeline calls it, columns copied in and results
//! checked and copied out, deadline ticks on; least of many runs, beside the same loop compiled into the host. "call" is the call alone; the
//! accumulator also numbers the groups that are in the batch. Not measured: how rows get their groups.

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs};
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::col;
use kindling::limits::GuestLimits;
use kindling::plugin::{Argument, GuestEngine, Plugin, PluginSet};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

#[path = "../../tests/guests/bench/src/gcd.rs"]
mod gcd;

const ROWS: usize = 8_192;
const RUNS: usize = 400;

/// Least nanoseconds a row.
fn least(mut call: impl FnMut()) -> f64 {
    let run = |call: &mut dyn FnMut()| {
        let started = Instant::now();
        call();
        started.elapsed().as_nanos() as f64 / ROWS as f64
    };
    (0..RUNS).map(|_| run(&mut call)).fold(f64::INFINITY, f64::min)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name bench.wasm: see the head of this file")?;
    let engine = GuestEngine::new(GuestLimits::default(), None)?;
    let set = PluginSet::empty().with(Plugin::load(&engine, Path::new(&path))?).map_err(|p| p.to_string())?;
    println!("{:<28}{:>14}{:>14}{:>8}", "8,192 rows, ns a row", "guest", "native", "ratio");
    let show = |what: &str, guest: f64, native: f64| println!("{what:<28}{guest:>14.2}{native:>14.2}{:>8.2}", guest / native);

    let values = Float64Array::from_iter_values((0..ROWS).map(|i| i as f64));
    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]));
    let udaf = set.aggregate_udfs().into_iter().find(|f| f.name() == "bench_avg").ok_or("no bench_avg")?;
    let function = AggregateExprBuilder::new(udaf, vec![col("x", &schema)?]).schema(schema).alias("a").build()?;
    for groups in [16, ROWS] {
        let indices: Vec<usize> = (0..ROWS).map(|i| i * 7 % groups).collect();
        let columns: [ArrayRef; 1] = [Arc::new(values.clone())];
        let mut accumulators = (0..RUNS).map(|_| function.create_groups_accumulator()).collect::<Result<Vec<_>, _>>()?;
        let guest = least(|| {
            let mut accumulator = accumulators.pop().expect("one a run");
            accumulator.update_batch(&columns, &indices, None, groups).expect("the guest is good");
        });
        let native = least(|| {
            let mut states = vec![(0.0f64, 0i64); groups];
            for (value, group) in values.values().iter().zip(&indices) {
                let state = &mut states[*group];
                *state = (state.0 + value, state.1 + 1);
            }
            black_box(states);
        });
        let numbers: Vec<u32> = indices.iter().map(|i| *i as u32).collect();
        let arguments = [Argument::Column(Arc::clone(&columns[0]))];
        let (plugin, number) = set.function("bench_avg").ok_or("no bench_avg")?;
        let call = least(|| drop(black_box(plugin.accumulate(number, &numbers, groups, &arguments).expect("the guest is good"))));
        show(&format!("avg over {groups} groups, call"), call, native);
        show("  the same, as accumulator", guest, native);
    }

    let names = StringArray::from_iter_values((0..ROWS).map(|i| format!("user-{}", i * 7919 % 100_000)));
    let ints = |seed: i64| Int64Array::from_iter_values((0..ROWS as i64).map(move |i| (i * seed) % 1_000_003 + 1));
    let (a, b) = (ints(7_919), ints(104_729));
    let scalar = |name: &str, args: Vec<ArrayRef>, result: DataType| {
        let udf = set.scalar_udfs().into_iter().find(|f| f.name() == name).expect("it is in the bench's guest");
        let fields: Vec<_> = args.iter().map(|c| Arc::new(Field::new("c", c.data_type().clone(), true))).collect();
        let result = Arc::new(Field::new("r", result, true));
        least(|| {
            let args = ScalarFunctionArgs {
                args: args.iter().map(|c| ColumnarValue::Array(Arc::clone(c))).collect(),
                arg_fields: fields.clone(),
                number_rows: ROWS,
                return_field: Arc::clone(&result),
                config_options: Arc::default(),
            };
            black_box(udf.invoke_with_args(args).expect("the guest is good"));
        })
    };
    let guest = scalar("bench_prefix", vec![Arc::new(names.clone())], DataType::Boolean);
    let native = least(|| drop(black_box(BooleanArray::from_iter(names.iter().map(|n| n.map(|n| n.starts_with("user-1")))))));
    show("prefix filter on strings", guest, native);
    let guest = scalar("bench_gcd", vec![Arc::new(a.clone()), Arc::new(b.clone())], DataType::Int64);
    let native =
        least(|| drop(black_box(Int64Array::from_iter_values(a.values().iter().zip(b.values()).map(|(a, b)| gcd::gcd(*a, *b))))));
    show("gcd of two columns", guest, native);
    by_size(&set)
}

/// Aggregates of each type by rows a call and groups: the fixed cost of a call, and the cost a row when it is spread.
fn by_size(set: &PluginSet) -> Result<(), Box<dyn std::error::Error>> {
    println!("\n{:<28}{:>14}{:>14}{:>14}{:>14}", "one call, ns a row", "1 group", "16 groups", "1,024", "all differ");
    for rows in [64usize, 512, 4_096, 8_192, 65_536] {
        let floats = (0..rows).map(|i| Some(i as f64));
        let nulls = floats.clone().enumerate().map(|(i, v)| v.filter(|_| i % 10 > 0));
        let columns: [(&str, &str, ArrayRef); 4] = [
            ("f64, average", "bench_avg", Arc::new(floats.collect::<Float64Array>())),
            ("f64, one in ten null", "bench_avg", Arc::new(nulls.collect::<Float64Array>())),
            ("i64, sum", "bench_sum", Arc::new(Int64Array::from_iter_values(0..rows as i64))),
            (
                "strings, their bytes",
                "bench_bytes",
                Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("user-{i}")))),
            ),
        ];
        println!("{rows} rows");
        for (what, function, column) in columns {
            let (plugin, number) = set.function(function).ok_or("it is not in the bench's guest")?;
            let arguments = [Argument::Column(column)];
            let cost = |groups: usize| {
                let numbers: Vec<u32> = (0..rows).map(|i| (i * 7 % groups) as u32).collect();
                let call =
                    || drop(black_box(plugin.accumulate(number, &numbers, groups, &arguments).expect("the guest is good")));
                least(call) * ROWS as f64 / rows as f64
            };
            let [one, few, some, all] = [1, 16, 1_024, rows].map(|groups| cost(groups.min(rows)));
            println!("  {what:<26}{one:>14.2}{few:>14.2}{some:>14.2}{all:>14.2}");
        }
    }
    Ok(())
}
