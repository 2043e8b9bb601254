"""Send files to a repository of the Hugging Face Hub (or of the server in HF_ENDPOINT).

check_hub("me/notes-merged")                                    # before the work that makes the files
push_files(model_upload(folder, "me/notes-merged"), "me/notes-merged")
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from httpx2 import HTTPError
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # re-exported without __all__

from dlm_trl.notes.errors import HubError

CARD = "README.md"


@dataclass(frozen=True)
class Upload:
    """What to send, and nothing else. Nothing here has been sent.

    kind: adapter, merged, awq or dataset. files: by their path in the repository, a file on disk or the content itself.
    replaces: what earlier pushes may have left, as glob patterns; such files are removed unless they are sent again.
    left_out: what is in the folder and stays there. notes: what to know before pushing.
    """

    kind: str
    repo_type: Literal["model", "dataset"]
    files: Mapping[str, Path | bytes]
    replaces: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def card(self) -> str:
        """The card, as Markdown."""
        content = self.files[CARD]
        assert isinstance(content, bytes)
        return content.decode()

    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


class Pushed(NamedTuple):
    """A finished upload: the full name of the repository, the URL of the commit, whether the repository is private."""

    repo_id: str
    url: str
    private: bool


def check_repo_id(repo_id: str) -> None:
    """Raises DlmError (HubError) for a name that no repository can have. Contacts nobody."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise _error(repo_id, f"the name is invalid: {_one_line(error)}", "Use the form user/name.") from error


def check_hub(repo_id: str) -> str:
    """The full name of the repository, with your user name if repo_id has no namespace. Creates nothing.

    Raises DlmError (HubError) for an invalid name, if you aren't logged in, and for a namespace you can't write to.
    """
    check_repo_id(repo_id)
    if get_token() is None:
        raise _error(repo_id, "you aren't logged in", "Run `hf auth login`, or set HF_TOKEN.")
    try:
        user = HfApi().whoami()
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = f"the Hub doesn't answer: {_one_line(error)}"
        raise _error(repo_id, reason, "Check the token and the network.") from error
    owner, _, name = repo_id.rpartition("/")
    namespaces = [user["name"], *(org["name"] for org in user.get("orgs", []))]
    if owner and owner not in namespaces:
        raise _error(repo_id, f"{user['name']} can only write to {', '.join(namespaces)}", "Use one of these.")
    return f"{owner or user['name']}/{name}"


def push_files(upload: Upload, repo_id: str, private: bool = True) -> Pushed:
    """Send the files in one commit.

    Creates the repository if it doesn't exist, private by default; an existing one keeps its visibility. Raises
    DlmError (HubError), also for an existing repository that is public although `private` is set; what is on disk
    stays, so you can try again.
    """
    name = check_hub(repo_id)
    api = HfApi()
    try:
        there, is_private = _repository(api, name, upload.repo_type, private)
        stale = {file for pattern in upload.replaces for file in there if Path(file).match(pattern)} - {*upload.files}
        commit = api.create_commit(
            name,
            [
                *(CommitOperationAdd(path, content) for path, content in upload.files.items()),
                *(CommitOperationDelete(path) for path in sorted(stale)),
            ],
            repo_type=upload.repo_type,
            commit_message=f"Upload {upload.kind} with dlm-trl",
        )
        return Pushed(name, str(commit.commit_url), is_private)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise _error(name, f"the upload failed: {_one_line(error)}", "Run the same command again.") from error


def _repository(api: HfApi, name: str, repo_type: Literal["model", "dataset"], private: bool) -> tuple[list[str], bool]:
    """The files in the repository, which is created if needed, and whether it is private."""
    try:
        info = api.model_info(name) if repo_type == "model" else api.dataset_info(name)
    except RepositoryNotFoundError:
        api.create_repo(name, repo_type=repo_type, private=private, exist_ok=True)
        return [], private
    if private and not info.private:
        hint = "Give --public to push all the same, or make it private in its settings on the Hub."
        raise _error(name, "the repository exists and is public", hint)
    return [file.rfilename for file in info.siblings or ()], bool(info.private)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _error(repo_id: str, reason: str, hint: str) -> HubError:
    return HubError(f"Can't push to {repo_id!r}: {reason}.", hint=hint)
