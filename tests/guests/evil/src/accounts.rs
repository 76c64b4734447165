//! Keyed processes that do all that a process can do, and some that it should not: timers of both kinds, several outputs, traps, endless loops.

/// Nothing was added for so long.
pub const QUIET_MS: i64 = 10_000;
/// A timer at such a time traps.
pub const TRAPS: i64 = 77_777;

/// A version of a plugin with one process. The hook is called for each row; `sum` has more columns of `results`, made of the total, and `state`
/// more fields of the state.
#[macro_export]
macro_rules! accounts {
    ($name:literal, $version:literal, $function:ident, $hook:expr, sum { $($column:ident)? }, state { $($field:ident)? }) => {
        use kindling_guest::{Context, Process, Refusal, Timestamp, output, outputs, plugin, row, state};

        row! {
            /// Something that a key did.
            struct Act<'a> { what: &'a str, amount: Option<i64> }
        }
        output! {
            /// A total, asked for or by a timer of processing time.
            struct Sum { id: String, total: i64, at: Timestamp, $($column: i64)? }
        }
        output! {
            /// Nothing was added for ten seconds.
            struct Quiet { id: String, since: Timestamp, total: i64 }
        }
        outputs! { enum Said { Sum as "results", Quiet as "quiet" } }
        state! {
            #[derive(Default)]
            struct Account { id: String, total: i64, last: Option<Timestamp>, left: i64, $($field: i64)? }
        }

        struct Accounts;

        fn sum(account: &Account, total: i64, at: Timestamp) -> Sum {
            Sum { id: account.id.clone(), total, at, $($column: total)? }
        }

        impl Process for Accounts {
            type State = Account;
            type Row<'a> = Act<'a>;
            type Output = Said;

            fn on_row(account: &mut Account, row: Act<'_>, context: &mut Context<Said>) -> Result<(), Refusal> {
                let hook: fn() = $hook;
                hook();
                let (what, id) = row.what.split_once(' ').unwrap_or((row.what, ""));
                account.id = id.into();
                match what {
                    "add" => {
                        account.total += row.amount.unwrap_or(1);
                        if let Some(last) = account.last.replace(context.time()) {
                            context.clear_timer(Timestamp(last.0 + $crate::accounts::QUIET_MS));
                        }
                        context.set_timer(Timestamp(context.time().0 + $crate::accounts::QUIET_MS));
                    }
                    "say" => context.emit(sum(account, account.total, context.time())),
                    "forget" => context.clear(),
                    "wake" => context.set_processing_timer(Timestamp(context.now().0 + 5)),
                    "again" => {
                        account.left = row.amount.unwrap_or(0);
                        context.set_timer(Timestamp(context.time().0 + 1_000));
                    }
                    "many" => (0..row.amount.unwrap_or(0)).for_each(|i| context.set_timer(Timestamp(i))),
                    "mine" => context.set_timer(Timestamp($crate::accounts::TRAPS)),
                    "trap" => panic!("a trap"),
                    "loop" => loop {
                        account.total = std::hint::black_box(account.total);
                    },
                    other => return Err(format!("`{other}` is unknown").into()),
                }
                Ok(())
            }

            fn on_timer(account: &mut Account, context: &mut Context<Said>) -> Result<(), Refusal> {
                assert!(context.time() != Timestamp($crate::accounts::TRAPS), "a timer's trap");
                if context.is_processing_timer() {
                    context.emit(sum(account, -account.total, context.time()));
                } else if account.left > 0 {
                    account.left -= 1;
                    context.emit(sum(account, account.left, context.time()));
                    if account.left > 0 {
                        context.set_timer(Timestamp(context.time().0 + 1_000));
                    }
                } else {
                    let since = Timestamp(context.time().0 - $crate::accounts::QUIET_MS);
                    context.emit(Quiet { id: account.id.clone(), since, total: account.total });
                }
                Ok(())
            }
        }

        plugin! {
            name: $name,
            version: $version,
            processes: [
                /// Totals by key.
                $function: Accounts,
            ],
        }
    };
}
