//! The graph of owners as text.
