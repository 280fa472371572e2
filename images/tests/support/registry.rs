//! A registry for tests.
