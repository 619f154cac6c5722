# SPDX-License-Identifier: MIT
# Compiles and runs the program in README.md with the command that stands there, and compares what it
# prints with what stands there. See ../CMakeLists.txt.
cmake_minimum_required(VERSION 3.21)

file(READ ${source_dir}/README.md readme)
file(READ ${source_dir}/examples/train.cpp example)

# between(OUT BEGIN END): the text of `readme` between the first BEGIN and the END behind it.
function(between out begin end)
  string(FIND "${readme}" "${begin}" from)
  if(from EQUAL -1)
    message(FATAL_ERROR "README.md or docs/design.md has no '${begin}'")
  endif()
  string(LENGTH "${begin}" length)
  math(EXPR from "${from} + ${length}")
  string(SUBSTRING "${readme}" ${from} -1 rest)
  string(FIND "${rest}" "${end}" to)
  string(SUBSTRING "${rest}" 0 ${to} text)
  set(${out} "${text}" PARENT_SCOPE)
endfunction()

between(program "```cpp\n#include <cstdio>" "```")
set(program "#include <cstdio>${program}")
string(FIND "${example}" "#include" from)
string(SUBSTRING "${example}" ${from} -1 example)
if(NOT program STREQUAL example)
  message(FATAL_ERROR "the program in README.md is not examples/train.cpp")
endif()

# What docs/design.md shows of a branch of one's own stands in an example, which is a test too.
file(READ ${source_dir}/docs/design.md readme)
file(READ ${source_dir}/examples/custom_branch.cpp example)
foreach(begin "/// f(x)_t = w" "  Model<float> model(")
  between(shown "```cpp\n${begin}" "```")
  string(FIND "${example}" "${begin}${shown}" from)
  if(from EQUAL -1)
    message(FATAL_ERROR "'${begin}' in docs/design.md is not that of examples/custom_branch.cpp")
  endif()
endforeach()
file(READ ${source_dir}/README.md readme)

file(REMOVE_RECURSE ${work_dir})
file(WRITE ${work_dir}/my_program.cpp "${program}")
between(command "without CMake: `g++ " "`")
string(REPLACE "/usr/include/eigen3" "${eigen_dir}" command "${command}")
string(REPLACE "my_program.cpp" "${work_dir}/my_program.cpp -o ${work_dir}/my_program" command
               "${command}")
separate_arguments(command UNIX_COMMAND "${command}")
execute_process(COMMAND ${compiler} ${command} WORKING_DIRECTORY ${source_dir} COMMAND_ECHO STDOUT
                        COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${work_dir}/my_program OUTPUT_VARIABLE printed COMMAND_ERROR_IS_FATAL ANY)
between(expected "it prints\n\n```\n" "```")
if(NOT printed STREQUAL expected)
  message(FATAL_ERROR "the program in README.md prints\n${printed}instead of\n${expected}")
endif()
