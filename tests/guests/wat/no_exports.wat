;; A core module that is no guest: it exports nothing.
(module)
