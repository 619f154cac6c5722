// SPDX-License-Identifier: MIT
/// @file
/// Archives and compressed files, made for tests.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace data::test {

/// @param format  "tar", "zip", or "raw" for a compressed file, which has one entry
/// @param filter  "" for none, the extension of a compressed file, "gz-stored" for gzip that
///   compresses nothing, or "stored" for a zip archive that does not
/// @param entries  names and contents; those whose name ends in '/' are folders
inline void write_archive(const std::filesystem::path& path, const std::string& format,
                          const std::string& filter,
                          const std::vector<std::pair<std::string, std::string>>& entries) {
  ::archive* const archive = ::archive_write_new();
  const auto check = [&](int result) {
    if (result != ARCHIVE_OK) {
      throw std::runtime_error(::archive_error_string(archive));
    }
  };
  check(format == "tar"   ? ::archive_write_set_format_gnutar(archive)
        : format == "zip" ? ::archive_write_set_format_zip(archive)
                          : ::archive_write_set_format_raw(archive));
  const auto begins = [&](const char* name) { return filter.starts_with(name); };
  check(begins("gz")    ? ::archive_write_add_filter_gzip(archive)
        : begins("bz2") ? ::archive_write_add_filter_bzip2(archive)
        : begins("xz")  ? ::archive_write_add_filter_xz(archive)
        : begins("zst") ? ::archive_write_add_filter_zstd(archive)
        : begins("lz4") ? ::archive_write_add_filter_lz4(archive)
        : begins("lz")  ? ::archive_write_add_filter_lzip(archive)
                        : ::archive_write_add_filter_none(archive));
  if (filter == "stored") {
    check(::archive_write_zip_set_compression_store(archive));
  }
  if (filter == "gz-stored") {
    check(::archive_write_set_filter_option(archive, "gzip", "compression-level", "0"));
  }
  check(
      ::archive_write_set_bytes_in_last_block(archive, format == "tar" && filter.empty() ? 0 : 1));
  check(::archive_write_open_filename(archive, path.c_str()));
  for (const auto& [name, content] : entries) {
    ::archive_entry* const entry = ::archive_entry_new();
    ::archive_entry_set_pathname(entry, name.c_str());
    ::archive_entry_set_filetype(entry, name.back() == '/' ? AE_IFDIR : AE_IFREG);
    ::archive_entry_set_perm(entry, 0644);
    ::archive_entry_set_mtime(entry, 1'000'000'000, 0);
    ::archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
    check(::archive_write_header(archive, entry));
    if (::archive_write_data(archive, content.data(), content.size()) < 0) {
      throw std::runtime_error(::archive_error_string(archive));
    }
    ::archive_entry_free(entry);
  }
  check(::archive_write_close(archive));
  ::archive_write_free(archive);
}

}  // namespace data::test
