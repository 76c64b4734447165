//! What is wrong with a pipeline, in words and by line.

use super::*;

/// The faults of `operations` are `expected`, each by how its text starts.
fn check(operations: Vec<Placed<Operation>>, expected: &[&str]) {
    let found = faults(&pipeline(operations));
    let fits = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(fits, "expected {expected:#?}, found {found:#?}");
}

#[test]
fn unknown_columns() {
    check(
        vec![parse(1), filter(2, "nam = 'a' AND siz > 1")],
        &["2: unknown column `nam`; did you mean `name`?", "2: unknown column `siz`; did you mean `size`?"],
    );
    check(vec![parse(1), filter(2, "__row > 1")], &["2: unknown column `__row`"]);
    check(vec![parse(1), project(2, &[("a", "name")]), filter(3, "size > 1")], &["3: unknown column `size`; there are: a"]);
    check(vec![parse(1), filter(2, "CamelCase = 'x'")], &["2: unknown column `CamelCase`; did you mean `camelCase`?"]);
}

#[test]
fn unknown_functions() {
    check(
        vec![parse(1), filter(2, "uper(name) = 'A'")],
        &["2: unknown function `uper`; did you mean `upper`? functions of a plugin are there once"],
    );
    check(vec![parse(1), guest_filter(2, "smal", &["size"])], &["2: unknown filter `smal`; did you mean `small`?"]);
    check(vec![parse(1), guest_filter(2, "shout", &["name"])], &["2: `shout` is a scalar function, not a filter"]);
    check(
        vec![parse(1), guest_filter(2, "total", &["size"])],
        &["2: `total` is an aggregate, not a filter; use it in a reducer"],
    );
    let of = |reducer| vec![parse(1), window(3, "st", &[], vec![reduce(4, reducer, &["size"], "n")])];
    check(of("coutn"), &["4: unknown reducer `coutn`; did you mean `count`?"]);
    check(of("small"), &["4: `small` is a filter, not an aggregate"]);
    check(of("upper"), &["4: `upper` is a scalar function, not an aggregate"]);
}

#[test]
fn expressions_that_are_none() {
    check(vec![parse(1), filter(2, "size >")], &["2: `size >` is not a SQL expression: Expected: an expression, found: EOF"]);
    check(vec![parse(1), filter(2, "size > 1 banana")], &["2: `size > 1 banana` is not a SQL expression"]);
    check(vec![parse(1), filter(2, "")], &["2: `` is not a SQL expression"]);
    check(vec![parse(1), filter(2, "size + 1")], &["2: `size + 1` is a long, not true or false"]);
    check(vec![parse(1), filter(2, "good > st")], &["2: `good > st`: "]);
    check(vec![parse(1), filter(2, "sum(size) > 1")], &["2: `sum` is an aggregate: it stands as a reducer"]);
    check(vec![parse(1), filter(2, "row_number() over () > 1")], &["2: window functions (OVER) can't be used"]);
    check(vec![parse(1), filter(2, "sum(size) over () > 1")], &["2: window functions (OVER) can't be used"]);
    check(vec![parse(1), filter(2, "random() > 0.5")], &["2: `random() > 0.5`: `random` gives another value each time"]);
    check(vec![parse(1), filter(2, "st > now()")], &["2: `st > now()`: `now` gives another value each time"]);
    check(
        vec![parse(1), filter(2, "st > current_date")],
        &["2: `st > current_date`: `current_date` gives another value each time"],
    );
    check(vec![parse(1), filter(2, "size in (select 1)")], &["2: `size in (select 1)`: an expression can't hold a query"]);
    check(vec![parse(1), filter(2, "size = 'x'")], &["2: `size = 'x'`: Cannot cast string 'x' to value of Int64 type"]);
    check(vec![parse(1), filter(2, "size = $1")], &["2: `size = $1`: "]);
}

#[test]
fn wrong_types_of_arguments() {
    check(vec![parse(1), guest_filter(2, "small", &["name", "size"])], &["2: `small`: "]);
    check(
        vec![parse(1), project(2, &[("x", "abs(name, size)")])],
        &["2: `abs(name, size)`: Function 'abs' expects 1 arguments but received 2"],
    );
    let of = |reducer, column: &'static str| vec![parse(1), window(3, "st", &[], vec![reduce(4, reducer, &[column], "n")])];
    check(of("avg", "good"), &["4: `avg` can't be called so: Function 'avg' requires Decimal, but received Boolean"]);
    check(of("sum", "good"), &["4: `sum` can't be called so: Function 'sum' requires "]);
    let text = faults(&pipeline(of("sum", "good"))).join("");
    assert!(!text.contains('\n') && !text.contains("bug") && !text.contains("Internal"), "{text}");
    let mut percentile = reduce(4, "approx_percentile_cont", &["size"], "p");
    percentile.arguments = vec![constant(5, Constant::Double(7.0))];
    check(vec![parse(1), window(3, "st", &[], vec![percentile])], &["4: `approx_percentile_cont` can't be used so: "]);
    check(vec![parse(1), window(3, "st", &[], vec![reduce(4, "sum", &[], "n")])], &["4: `sum` needs a column"]);
}

#[test]
fn names_of_columns() {
    check(vec![parse(1), project(2, &[("a", "name"), ("a", "size")])], &["2: there are two columns `a`"]);
    check(vec![parse(1), project(2, &[("__a", "name")])], &["2: the column name `__a` starts with `__`"]);
    check(vec![parse(1), parse(2)], &["2: there are two columns `st`", "2: ", "2: ", "2: ", "2: ", "2: ", "2: "]);
    let n = || vec![reduce(4, "count", &[], "name")];
    check(vec![parse(1), window(3, "st", &["name"], n())], &["4: there are two columns `name`"]);
    check(vec![parse(1), window(3, "st", &["name", "name"], vec![])], &["3: there are two columns `name`"]);
}

#[test]
fn windows() {
    let n = || vec![reduce(4, "count", &[], "n")];
    check(vec![parse(1), window(3, "time", &["name"], n())], &["3: unknown column `time`"]);
    check(
        vec![parse(1), window(3, "size", &["name"], n())],
        &["3: the event time `size` is a long, not a timestamp; parse it with outputType milliToTimestamp"],
    );
    check(vec![parse(1), window(3, "st", &["nam"], n())], &["3: unknown column `nam`"]);
    check(vec![parse(1), window(3, "st", &[], n()), parse(6)], &["6: "; 8]);
    check(vec![project(1, &[("a", "value")]), parse(2)], &["2: parse stands behind a project"]);
}

#[test]
fn all_faults_of_a_file_come_at_once() {
    let mut counted = reduce(8, "sum", &["siz"], "s");
    counted.filter = Some(text(9, "goood"));
    let operations = vec![
        parse(1),
        filter(2, "nam = 'a'"),
        guest_filter(3, "smal", &["size"]),
        project(4, &[("st", "st"), ("loud", "shot(name)"), ("good", "good"), ("size", "size")]),
        filter(5, "loud = 'x'"),
        window(6, "st", &["loud"], vec![reduce(7, "count", &[], "n"), counted, reduce(10, "coutn", &[], "c")]),
        filter(11, "n > 1 AND s > 1 AND c > 1 AND z > 1"),
        project(12, &[("x", "upper(")]),
    ];
    let lines: Vec<String> = faults(&pipeline(operations)).iter().map(|f| f.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["2", "3", "4", "8", "9", "10", "11", "12"]);
}
