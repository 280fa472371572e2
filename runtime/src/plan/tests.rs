//! Golden text of plans.
