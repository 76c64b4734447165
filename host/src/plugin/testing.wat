;; A guest for unit tests, by hand: what it is stands in a data segment that `testing.rs` makes. Its functions:
;;   0 even(int64) filter, 1 twice(int64) scalar, 2 sum(int64) aggregate with the state (sum int64),
;;   3 fails(int64) scalar: traps, loops, recurses, eats memory, refuses row 1, or answers nonsense, by the first value.
;; Its allocator only goes forward; the end of each call resets it.
(module
  (memory (export "memory") 4)
  (global $base i32 (i32.const {BASE}))
  (global $heap (mut i32) (i32.const {BASE}))
  (data (i32.const 1024) "{DATA}")

  (func $alloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $p i32) (local $end i32)
    (local.set $p (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (local.set $end (i32.add (local.get $p) (local.get 3)))
    (block $enough (loop $more
      (br_if $enough (i32.le_u (local.get $end) (i32.mul (memory.size) (i32.const 65536))))
      (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
      (br $more)))
    (global.set $heap (local.get $end))
    (local.get $p))
  (func $new (param $n i32) (result i32) (call $alloc (i32.const 0) (i32.const 0) (i32.const 8) (local.get $n)))
  (func $reset (param i32) (global.set $heap (global.get $base)))
  (export "cabi_post_filter" (func $reset)) (export "cabi_post_scalar" (func $reset)) (export "cabi_post_accumulate" (func $reset))
  (export "cabi_post_merge" (func $reset)) (export "cabi_post_finish" (func $reset))

  (func (export "describe") (result i32) (i32.const 1024))

  ;; Writes a column of int64 at $at.
  (func $column (param $at i32) (param $values i32) (param $n i32)
    (i32.store8 (local.get $at) (i32.const 1))
    (i32.store offset=4 (local.get $at) (local.get $values)) (i32.store offset=8 (local.get $at) (local.get $n))
    (i32.store offset=20 (local.get $at) (i32.const 0)) (i32.store offset=24 (local.get $at) (i32.const 0))
    (i32.store8 offset=28 (local.get $at) (i32.const 0)))

  ;; Value of row $i of the int64 column at $c.
  (func $value (param $c i32) (param $i i32) (result i64)
    (i64.load (i32.add (i32.load offset=4 (local.get $c))
      (select (i32.const 0) (i32.shl (local.get $i) (i32.const 3)) (i32.load8_u offset=28 (local.get $c))))))

  (func (export "filter") (param $f i32) (param $n i32) (param $c i32) (param $args i32) (result i32) (local $r i32) (local $b i32) (local $i i32)
    (local.set $r (call $new (i32.const 24)))
    (local.set $b (call $new (i32.shr_u (i32.add (local.get $n) (i32.const 7)) (i32.const 3))))
    (memory.fill (local.get $b) (i32.const 0) (i32.shr_u (i32.add (local.get $n) (i32.const 7)) (i32.const 3)))
    (block $done (loop $l
      (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
      (if (i64.eqz (i64.and (call $value (local.get $c) (local.get $i)) (i64.const 1))) (then
        (i32.store8 (i32.add (local.get $b) (i32.shr_u (local.get $i) (i32.const 3)))
          (i32.or (i32.load8_u (i32.add (local.get $b) (i32.shr_u (local.get $i) (i32.const 3))))
            (i32.shl (i32.const 1) (i32.and (local.get $i) (i32.const 7)))))))
      (local.set $i (i32.add (local.get $i) (i32.const 1))) (br $l)))
    (i32.store8 (local.get $r) (i32.const 0))
    (i32.store offset=4 (local.get $r) (local.get $b))
    (i32.store offset=8 (local.get $r) (i32.shr_u (i32.add (local.get $n) (i32.const 7)) (i32.const 3)))
    (local.get $r))

  (func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (i32.add (local.get 0) (i32.const 1)))))

  (func $fail (param $how i64) (param $r i32)
    (if (i64.eq (local.get $how) (i64.const 1)) (then unreachable))
    (if (i64.eq (local.get $how) (i64.const 2)) (then (loop $ever (br $ever))))
    (if (i64.eq (local.get $how) (i64.const 3)) (then (drop (call $deep (i32.const 0)))))
    (if (i64.eq (local.get $how) (i64.const 4)) (then (loop $ever (drop (memory.grow (i32.const 16))) (br $ever))))
    (if (i64.eq (local.get $how) (i64.const 5)) (then
      (i32.store8 (local.get $r) (i32.const 1))
      (i32.store offset=4 (local.get $r) (i32.const 1024)) (i32.store offset=8 (local.get $r) (i32.const 0))
      (i32.store8 offset=12 (local.get $r) (i32.const 1)) (i32.store offset=16 (local.get $r) (i32.const 1))))
    (if (i64.eq (local.get $how) (i64.const 6)) (then (i32.store offset=12 (local.get $r) (i32.const 3))))
    (if (i64.eq (local.get $how) (i64.const 7)) (then (i32.store offset=8 (local.get $r) (i32.const -64)))))

  (func (export "scalar") (param $f i32) (param $n i32) (param $c i32) (param $args i32) (result i32) (local $r i32) (local $v i32) (local $i i32)
    (local.set $r (call $new (i32.const 40)))
    (local.set $v (call $new (i32.shl (local.get $n) (i32.const 3))))
    (block $done (loop $l
      (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
      (i64.store (i32.add (local.get $v) (i32.shl (local.get $i) (i32.const 3)))
        (i64.shl (call $value (local.get $c) (local.get $i)) (i64.const 1)))
      (local.set $i (i32.add (local.get $i) (i32.const 1))) (br $l)))
    (i32.store8 (local.get $r) (i32.const 0))
    (call $column (i32.add (local.get $r) (i32.const 4)) (local.get $v) (local.get $n))
    (if (i32.eq (local.get $f) (i32.const 3)) (then (call $fail (call $value (local.get $c) (i32.const 0)) (local.get $r))))
    (local.get $r))

  ;; Sums of the int64 column $c by group.
  (func $sums (param $f i32) (param $g i32) (param $n i32) (param $count i32) (param $c i32) (param $args i32) (result i32)
    (local $r i32) (local $v i32) (local $i i32) (local $slot i32)
    (local.set $r (call $new (i32.const 64)))
    (local.set $v (call $new (i32.shl (local.get $count) (i32.const 3))))
    (memory.fill (local.get $v) (i32.const 0) (i32.shl (local.get $count) (i32.const 3)))
    (block $done (loop $l
      (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
      (local.set $slot (i32.add (local.get $v) (i32.shl (i32.load (i32.add (local.get $g) (i32.shl (local.get $i) (i32.const 2)))) (i32.const 3))))
      (i64.store (local.get $slot) (i64.add (i64.load (local.get $slot)) (call $value (local.get $c) (local.get $i))))
      (local.set $i (i32.add (local.get $i) (i32.const 1))) (br $l)))
    (i32.store8 (local.get $r) (i32.const 0))
    (i32.store offset=4 (local.get $r) (i32.add (local.get $r) (i32.const 16))) (i32.store offset=8 (local.get $r) (i32.const 1))
    (call $column (i32.add (local.get $r) (i32.const 16)) (local.get $v) (local.get $count))
    (local.get $r))
  (export "accumulate" (func $sums)) (export "merge" (func $sums))

  (func (export "finish") (param $f i32) (param $n i32) (param $c i32) (param $states i32) (result i32) (local $r i32)
    (local.set $r (call $new (i32.const 40)))
    (i32.store8 (local.get $r) (i32.const 0))
    (call $column (i32.add (local.get $r) (i32.const 4)) (i32.load offset=4 (local.get $c)) (local.get $n))
    (local.get $r))
)
