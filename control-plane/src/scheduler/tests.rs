//! Filters, scores, the queue and whole verdicts, as tables.
