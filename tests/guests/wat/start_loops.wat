;; A core module whose start function never returns; instantiating it must end all the same.
(module
  (func $start (loop $again (br $again)))
  (start $start))
