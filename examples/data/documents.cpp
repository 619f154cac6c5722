// SPDX-License-Identifier: MIT
#include "documents.hpp"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <system_error>

namespace data {
namespace {

namespace fs = std::filesystem;

/// Whether a name says that there is a tar archive in a compressed file.
bool is_named_tar(const fs::path& file) {
  const std::string last = file.extension().string();
  return file.stem().extension() == ".tar" || last == ".tgz" || last == ".tbz2" || last == ".txz" ||
         last == ".tzst";
}

std::vector<std::string> names_in(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()), &::closedir);
  if (!open) {
    fail(described(folder), "cannot be read: " + std::generic_category().message(errno));
  }
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(open.get())) {
    if (entry->d_name[0] != '.') {
      names.emplace_back(entry->d_name);
    }
  }
  if (errno != 0) {
    fail(described(folder), "cannot be read: " + std::generic_category().message(errno));
  }
  std::sort(names.begin(), names.end(), std::greater<>());
  return names;
}

}  // namespace

FileList::FileList(std::vector<std::string> places) : places_(std::move(places)) {}

std::optional<FileList::File> FileList::next() {
  for (;;) {
    while (!folders_.empty() && folders_.back().names.empty()) {
      folders_.pop_back();
    }
    std::optional<File> file;
    if (!folders_.empty()) {
      const std::string path = (fs::path(folders_.back().path) / folders_.back().names.back());
      folders_.back().names.pop_back();
      file = visit(path, false);
    } else if (next_place_ == places_.size()) {
      return std::nullopt;
    } else if (const std::string& place = places_[next_place_++]; place == "-") {
      file = File{"-", true, 0};
    } else {
      file = visit(place, true);
    }
    if (file) {
      return file;
    }
  }
}

std::optional<FileList::File> FileList::visit(const std::string& path, bool is_named) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    const int error = errno;
    struct stat link {};
    if (error == ENOENT && ::lstat(path.c_str(), &link) == 0) {
      fail(described(path), "is a link to what does not exist");
    }
    fail(described(path), error == ENOENT
                              ? "does not exist"
                              : "cannot be read: " + std::generic_category().message(error));
  }
  if (S_ISREG(status.st_mode)) {
    return File{path, is_named, static_cast<std::uint64_t>(status.st_size)};
  }
  if (!S_ISDIR(status.st_mode)) {
    fail(described(path), "is not a regular file; give files, folders or - for standard input");
  }
  const std::pair<std::uint64_t, std::uint64_t> identity(status.st_dev, status.st_ino);
  for (const Folder& folder : folders_) {
    if (folder.identity == identity) {
      fail(described(path), "is a link to a folder that it is in: '" + folder.path + "'");
    }
  }
  folders_.push_back({path, identity, names_in(path)});
  return std::nullopt;
}

Documents::Documents(std::vector<std::string> places)
    : places_(std::move(places)), files_(places_) {
  FileList all(places_);
  std::int64_t count = 0;
  std::int64_t inputs = 0;
  while (const std::optional<FileList::File> file = all.next()) {
    ++count;
    is_among_others_ = is_among_others_ || !file->is_named;
    inputs += file->path == "-" ? 1 : 0;
    if (total_size_) {
      *total_size_ += file->size;
    }
  }
  if (inputs > 1) {
    fail(described("-"), "is named twice and can be read once");
  }
  if (inputs > 0) {
    total_size_.reset();
  }
  if (count == 0) {
    fail(described(places_.front()), "is a folder without a file in it");
  }
}

std::uint64_t Documents::position() const {
  return position_before_ + (raw_ != nullptr ? raw_->position() : 0);
}

void Documents::begin(Stream& stream, std::string name) {
  document_ = &stream;
  name_ = std::move(name);
}

bool Documents::next() {
  for (;;) {
    if (document_ != nullptr) {
      while (!document_->block().empty()) {
      }
      document_ = nullptr;
    }
    if (!open_next_member() && !open_next_file()) {
      if (count_ == 0) {
        fail_without_documents();
      }
      return false;
    }
    if (document_ == nullptr) {
      continue;  // left out, or an archive, whose members come
    }
    if (!document_->head().empty()) {
      ++count_;
      return true;
    }
    ++empty_;
    last_empty_ = name_;
  }
}

std::span<const std::uint8_t> Documents::block() {
  return document_->block();
}

bool Documents::is_left_out(const FileKind& kind, const std::string& name) {
  if (kind.use != FileKind::Use::left_out) {
    return false;
  }
  LeftOut& left_out = left_out_[kind.name];
  if (left_out.count++ == 0) {
    left_out.example = name;
  }
  return true;
}

/// Whether there was one. What is in an archive is looked at no deeper.
bool Documents::open_next_member() {
  if (archive_ == nullptr) {
    return false;
  }
  if (!archive_->next()) {
    archive_.reset();
    return false;
  }
  Stream& stream = archive_->bytes();
  const std::string name = fmt::format("{} ({})", file_.path, archive_->member());
  if (const FileKind* kind = stream.kind()) {
    if (!is_left_out(*kind, name)) {
      fail(described(file_.path),
           fmt::format("is {} with {} inside ('{}'), not raw bytes: unpack it first",
                       archive_kind_->name, kind->name, archive_->member()));
    }
    return true;
  }
  begin(stream, name);
  return true;
}

bool Documents::open_next_file() {
  const std::optional<FileList::File> file = files_.next();
  if (!file) {
    return false;
  }
  if (raw_ != nullptr) {
    position_before_ += file_.size;
  }
  raw_ = nullptr;
  archive_.reset();
  kept_open_.reset();
  stream_.reset();
  file_ = *file;
  ++opened_;
  const std::string name = described(file_.path);
  auto raw = std::make_unique<FileStream>(file_.path);
  raw_ = raw.get();
  stream_ = std::move(raw);
  const FileKind* kind = stream_->kind();
  const fs::path path = file_.path;
  const FileKind* named = kind_of_extension(path.extension().string());
  if (kind == nullptr) {
    if (named != nullptr && !stream_->head().empty()) {
      fail(name, fmt::format("is named {} but is corrupt or of another kind: it does not begin as "
                             "{} files do",
                             named->extension, named->extension));
    }
    begin(*stream_, file_.path);
    return true;
  }
  if (!kind->is_read()) {
    if (file_.is_named || !is_left_out(*kind, file_.path)) {
      fail(name, fmt::format("is {}, not raw bytes: {}", kind->name, kind->remedy_for(path)));
    }
    return true;
  }
  int descriptor = raw_->descriptor();
  if (file_.path == "-") {
    descriptor = -1;
  }
  if (kind->use == FileKind::Use::decompressed) {
    stream_ = decompressed(name, *kind, std::move(stream_));
    descriptor = -1;
    const FileKind* inner = stream_->kind();
    const bool is_tar = inner != nullptr && inner->extension == ".tar";
    if (inner != nullptr && !is_tar) {
      fail(name, fmt::format("is {} with {} inside, not raw bytes: unpack both and give a text",
                             kind->name, inner->name));
    }
    if (!is_tar && is_named_tar(path)) {
      fail(name, "is named as a compressed tar archive, but there is none in it");
    }
    if (!is_tar) {
      begin(*stream_, file_.path);
      return true;
    }
    kind = inner;
  }
  archive_kind_ = kind;
  if (kind->extension == ".zip" && stream_->head()[2] == 5) {
    return true;  // it begins with its end
  }
  if (descriptor >= 0 && kind->extension == ".zip") {
    kept_open_ = std::move(stream_);
  }
  archive_ = archive_of(name, *kind, std::move(stream_), descriptor);
  return true;
}

std::string Documents::left_out() const {
  std::string text;
  for (const auto& [kind, files] : left_out_) {
    text += fmt::format("{}{} x {}, such as '{}'", text.empty() ? "left out: " : "; ", files.count,
                        kind, files.example);
  }
  return text;
}

void Documents::fail_without_documents() const {
  if (opened_ == 1 && archive_kind_ != nullptr && left_out_.empty() && empty_ == 0) {
    fail(described(file_.path), fmt::format("is {} without a file in it", archive_kind_->name));
  }
  if (opened_ == 1 && archive_kind_ != nullptr && !left_out_.empty()) {
    fail(described(file_.path), fmt::format("is {} with {} inside, and nothing to read",
                                            archive_kind_->name, left_out_.begin()->first));
  }
  if (opened_ == 1 && !is_among_others_) {
    fail(described(file_.path),
         stream_ != nullptr && raw_ == stream_.get() ? "is empty" : "is empty once decompressed");
  }
  fail(described(places_.front()),
       fmt::format("{}holds nothing to read: {} empty file{}{}{}",
                   places_.size() > 1 ? "and what was given beside it " : "", empty_,
                   empty_ == 1 ? "" : "s", left_out_.empty() ? "" : "; ", left_out()));
}

}  // namespace data
