DROP TABLE sweep_input;
