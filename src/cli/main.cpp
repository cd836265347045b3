#include "cli/program.h"

int main(int argc, char** argv) { return tutti::cli::program(argc, argv); }
