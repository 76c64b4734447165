//! Every type of argument, result and state, with and without nulls and constants, through a plugin's exports.

use kindling_guest::testing::{self, Rows, aggregate, aggregate_groups, filter, scalar};
use kindling_guest::types::{Column, Datatype, Kind, Values, Varlen};
use kindling_guest::{Emit, InlineStr, Timestamp, msgpack_state, output, plugin, state};

state! {
    /// The greatest value with all that stood beside it.
    #[derive(Default)]
    struct Latest {
        at: Option<Timestamp>,
        flag: bool,
        number: Option<f64>,
        name: String,
        raw: Vec<u8> as "raw:1",
    }
}

impl Latest {
    fn update(&mut self, at: Timestamp, flag: bool, number: Option<f64>, name: &str, raw: &[u8]) {
        self.merge(Self { at: Some(at), flag, number, name: name.into(), raw: raw.into() });
    }
    fn merge(&mut self, other: Self) {
        if other.at > self.at {
            *self = other;
        }
    }
    fn finish(&self) -> Option<String> {
        self.at.map(|at| format!("{} {} {:?} {} {:?}", at.0, self.flag, self.number, self.name, self.raw))
    }
}

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Words(std::collections::BTreeMap<String, i64>);
msgpack_state!(Words, 3);

impl Words {
    fn update(&mut self, word: &str) -> Result<(), String> {
        match word {
            "poison" => Err(format!("`{word}` is not a word")),
            _ => {
                *self.0.entry(word.into()).or_default() += 1;
                Ok(())
            }
        }
    }
    fn update_number(&mut self, word: i64) {
        *self.0.entry(word.to_string()).or_default() += 1;
    }
    fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|(word, n)| *self.0.entry(word).or_default() += n);
    }
    fn finish(&self) -> i64 {
        self.0.values().filter(|n| **n > 1).count() as i64
    }
}

fn both(a: Option<bool>, b: Option<bool>) -> bool {
    a == Some(true) && b == Some(true)
}

fn starts(text: &str, with: &str) -> Result<bool, &'static str> {
    if with.is_empty() { Err("an empty prefix") } else { Ok(text.starts_with(with)) }
}

fn shift(at: Timestamp, by: i64) -> Timestamp {
    Timestamp(at.0 + by)
}

fn describe(number: Option<f64>, text: Option<&str>, bytes: Option<&[u8]>) -> String {
    format!("{number:?} {text:?} {bytes:?}")
}

fn first(text: &str) -> Option<InlineStr<4>> {
    let mut first = InlineStr::default();
    text.chars().next().filter(|c| first.push(*c)).map(|_| first)
}

fn halves(number: i64) -> Result<Option<f64>, String> {
    if number < 0 { Err(format!("{number} is negative")) } else { Ok((number > 0).then_some(number as f64 / 2.0)) }
}

plugin! {
    name: "everything",
    version: "1.2.3",
    aggregates: [
        /// The greatest value.
        latest: Latest,
        repeated: Words,
        repeated_numbers: Words where update = Words::update_number,
    ],
    filters: [both, has_prefix: starts],
    scalars: [shift, describe, first, halves],
}

fn times(times: &[i64]) -> Vec<Timestamp> {
    times.iter().copied().map(Timestamp).collect()
}

#[test]
fn description() {
    use Datatype::{Binary, Boolean, Float64, Int64, Timestamp, Utf8};
    let description = plugin().describe();
    assert_eq!((description.name.as_str(), description.version.as_str()), ("everything", "1.2.3"));
    assert!(description.sdk.starts_with("kindling-guest 0."), "{}", description.sdk);
    let names: Vec<_> = description.functions.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["latest", "repeated", "repeated_numbers", "both", "has_prefix", "shift", "describe", "first", "halves"]);
    let latest = &description.functions[0];
    assert_eq!((latest.kind, latest.doc.as_str(), latest.result), (Kind::Aggregate, "The greatest value.", Utf8));
    assert_eq!(latest.arguments, [Timestamp, Boolean, Float64, Utf8, Binary]);
    let state: Vec<_> = latest.state.iter().map(|f| (f.name.as_str(), f.type_, f.layout.as_str())).collect();
    let expected =
        [("at", Timestamp, ""), ("flag", Boolean, ""), ("number", Float64, ""), ("name", Utf8, ""), ("raw", Binary, "raw:1")];
    assert_eq!(state, expected);
    assert_eq!(description.functions[1].state[0].layout, "msgpack:Words:3");
    assert_eq!(description.functions[2].arguments, [Int64]);
}

fn latest_rows() -> Rows {
    Rows::of([Some(Timestamp(5)), Some(Timestamp(9)), None, Some(Timestamp(7))])
        .and([true, false, true, true])
        .and([Some(0.5), None, Some(1.5), Some(2.5)])
        .and(["five", "neun", "", "seven"])
        .constant(&[1u8, 2][..])
}

#[test]
fn typed_state_of_every_type() {
    let result = aggregate::<Option<String>>(plugin(), "latest", &latest_rows());
    assert_eq!(result, Ok(Some("9 false None neun [1, 2]".into())));
    let groups = aggregate_groups::<Option<String>>(plugin(), "latest", &[2, 0, 0, 2], 3, &latest_rows());
    assert_eq!(groups, Ok(vec![Some("9 false None neun [1, 2]".into()), None, Some("7 true Some(2.5) seven [1, 2]".into())]));
    testing::laws(plugin(), "latest", &latest_rows(), |a: &Option<String>, b| a == b);
}

#[test]
fn msgpack_state() {
    let rows = Rows::of(["a", "b", "a", "c", "c"]);
    assert_eq!(aggregate(plugin(), "repeated", &rows), Ok(2));
    assert_eq!(aggregate(plugin(), "repeated_numbers", &Rows::of([1, 1, 2])), Ok(1));
    testing::laws(plugin(), "repeated", &rows, |a: &i64, b| a == b);
    let broken = Column {
        values: Values::Binary(Varlen { offsets: vec![0, 1], data: vec![0xc1] }),
        validity: Vec::new(),
        constant: false,
    };
    let failure = plugin().merge(1, &[0], 1, &[broken]).unwrap_err();
    assert!(failure.message.contains("does not read back"), "{failure:?}");
    assert_eq!(failure.row, Some(0));
}

#[test]
fn a_refused_row_is_named() {
    let failure = aggregate::<i64>(plugin(), "repeated", &Rows::of(["a", "b", "poison", "c"])).unwrap_err();
    assert_eq!((failure.message.as_str(), failure.row), ("`poison` is not a word", Some(2)));
    let failure = scalar::<Option<f64>>(plugin(), "halves", &Rows::of([4, -1])).unwrap_err();
    assert_eq!((failure.message.as_str(), failure.row), ("-1 is negative", Some(1)));
    let failure = filter(plugin(), "has_prefix", &Rows::of(["a"]).and([""])).unwrap_err();
    assert_eq!((failure.message.as_str(), failure.row), ("an empty prefix", Some(0)));
}

#[test]
fn filters_with_nulls_and_constants() {
    let flags = [Some(true), Some(true), None, Some(false)];
    assert_eq!(filter(plugin(), "both", &Rows::of(flags).constant(true)), Ok(vec![true, true, false, false]));
    assert_eq!(filter(plugin(), "both", &Rows::of(flags).constant(None::<bool>)), Ok(vec![false; 4]));
    let texts = [Some("user-1"), None, Some("bot-1"), Some("user-")];
    assert_eq!(filter(plugin(), "has_prefix", &Rows::of(texts).constant("user-")), Ok(vec![true, false, false, true]));
    assert_eq!(filter(plugin(), "has_prefix", &Rows::of(texts).constant(None::<&str>)), Ok(vec![false; 4]));
    let many: Vec<String> = (0..100).map(|i| format!("{i}")).collect();
    let kept = filter(plugin(), "has_prefix", &Rows::of(many.iter().map(String::as_str)).constant("1")).unwrap();
    assert_eq!(kept, many.iter().map(|text| text.starts_with('1')).collect::<Vec<_>>());
}

#[test]
fn scalars_with_nulls_and_constants() {
    let at = Rows::of([Some(Timestamp(1)), None, Some(Timestamp(3))]).constant(10);
    assert_eq!(scalar(plugin(), "shift", &at), Ok(vec![Some(Timestamp(11)), None, Some(Timestamp(13))]));
    assert_eq!(scalar(plugin(), "shift", &Rows::of(times(&[1, 2])).and([5, 6])), Ok(times(&[6, 8])));
    let rows = Rows::of([Some(1.0), None]).constant(None::<&str>).and([None, Some(&b"x"[..])]);
    assert_eq!(
        scalar(plugin(), "describe", &rows),
        Ok(vec!["Some(1.0) None None".to_owned(), "None None Some([120])".to_owned()])
    );
    let texts = Rows::of(["äb", "", "c"]);
    assert_eq!(scalar(plugin(), "first", &texts), Ok(vec![Some("ä".to_owned()), None, Some("c".to_owned())]));
    assert_eq!(scalar(plugin(), "halves", &Rows::of([3, 0])), Ok(vec![Some(1.5), None]));
    assert_eq!(scalar::<Option<f64>>(plugin(), "halves", &Rows::of(Vec::<i64>::new())), Ok(vec![]));
}

#[test]
fn what_does_not_fit_is_refused_as_a_whole() {
    let column = |values| Column { values, validity: Vec::new(), constant: false };
    let check = |failure: kindling_guest::types::Failure, text: &str| {
        assert!(failure.message.contains(text) && failure.row.is_none(), "{failure:?}");
    };
    check(
        plugin().scalar(8, 3, &[column(Values::Int64(vec![1]))]).unwrap_err(),
        "argument 1: a column has 1 values, but 3 are needed",
    );
    check(plugin().scalar(8, 1, &[column(Values::Float64(vec![1.0]))]).unwrap_err(), "is float64, but int64 is needed");
    check(plugin().scalar(8, 1, &[]).unwrap_err(), "called with 0 arguments, but it has 1");
    check(plugin().scalar(0, 1, &[]).unwrap_err(), "function 0 is no scalar function");
    check(plugin().filter(99, 1, &[]).unwrap_err(), "function 99 is no filter");
    check(plugin().merge(0, &[0], 1, &[]).unwrap_err(), "state field `at` is missing");
    let failure = plugin().accumulate(2, &[0, 7], 1, &[column(Values::Int64(vec![1, 1]))]).unwrap_err();
    assert!(failure.message.contains("group"), "{failure:?}");
    let broken = Values::Utf8(Varlen { offsets: vec![0, 9, 4], data: b"abc".to_vec() });
    assert!(plugin().accumulate(1, &[0, 0], 1, &[column(broken)]).is_ok(), "broken offsets read as empty");
}

output! {
    /// A part of a text, and how many parts there are.
    struct Part { part: String, parts: Option<i64> }
}

fn parts(out: &mut Emit<Part>, text: &str, by: &str) -> Result<(), String> {
    if by.is_empty() {
        return Err("nothing to split by".into());
    }
    let count = text.split(by).count() as i64;
    out.extend(text.split(by).filter(|p| !p.is_empty()).map(|p| Part { part: p.into(), parts: (count > 1).then_some(count) }));
    Ok(())
}

fn twice(out: &mut Emit<Part>, number: Option<i64>) {
    (0..2).for_each(|_| out.push(Part { part: format!("{number:?}"), parts: number }));
}

mod flat {
    use super::*;
    plugin! {
        name: "flat",
        version: "1.0.0",
        filters: [
            /// Stands before them.
            starts,
        ],
        flatmaps: [
            /// Parts of a text.
            parts,
            again: twice,
        ],
    }

    #[test]
    fn flat_maps_with_nulls_and_constants() {
        let described = plugin().describe_flatmaps();
        assert_eq!(
            described.iter().map(|f| (f.name.as_str(), f.doc.as_str())).collect::<Vec<_>>(),
            [("parts", "Parts of a text."), ("again", "")]
        );
        assert_eq!(described[0].arguments, [Datatype::Utf8, Datatype::Utf8]);
        let columns: Vec<_> = described[0].results.iter().map(|c| (c.name.as_str(), c.type_)).collect();
        assert_eq!(columns, [("part", Datatype::Utf8), ("parts", Datatype::Int64)]);
        let given =
            testing::flatmap::<Part>(plugin(), "parts", &Rows::of([Some("a-b"), None, Some("-"), Some("c")]).constant("-"));
        let given: Vec<_> = given.expect("taken").into_iter().map(|(row, p)| (row, p.part, p.parts)).collect();
        assert_eq!(given, [(0, "a".into(), Some(2)), (0, "b".into(), Some(2)), (3, "c".into(), None)]);
        let given = testing::flatmap::<Part>(plugin(), "again", &Rows::of([Some(1), None])).expect("taken");
        assert_eq!(
            given.iter().map(|(row, p)| (*row, p.parts)).collect::<Vec<_>>(),
            [(0, Some(1)), (0, Some(1)), (1, None), (1, None)]
        );
    }

    #[test]
    fn a_refused_row_and_a_wrong_number_are_told() {
        let refused = testing::flatmap::<Part>(plugin(), "parts", &Rows::of(["a", "b"]).and(["-", ""])).err().expect("refused");
        assert_eq!((refused.row, refused.message.as_str()), (Some(1), "nothing to split by"));
        for number in [0, 3, u32::MAX] {
            let absent = plugin().flatmap(number, 0, &[]).expect_err("no flat map");
            assert_eq!(absent.message, format!("function {number} is no flat map of this plugin"));
        }
    }
}
