tfo_lab::lab_tests! {}
