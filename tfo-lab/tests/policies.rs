lab_placeholder!();
