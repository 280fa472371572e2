//! A silent node as text, with the clock as an argument.
