;; A component that imports a function that nobody grants.
(component
  (import "secret" (func (param "number" s64) (result s64))))
