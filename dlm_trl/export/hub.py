"""Upload a folder to the Hugging Face Hub (or the server in HF_ENDPOINT).

check_hub("me/notes-merged")        # before the work that makes the folder
push_to_hub(folder, "me/notes-merged")
"""

from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # re-exported without __all__

from dlm_trl.export.verify import EXPECTED_ANSWERS
from dlm_trl.notes.errors import HubError


def check_hub(repo_id: str) -> str:
    """The full name of the repository, with your user name if repo_id has no namespace. Creates nothing.

    Raises DlmError (HubError) for an invalid name, if you aren't logged in, and for a namespace you can't write to.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise _error(repo_id, f"the name is invalid: {_one_line(error)}", "Use the form user/name.") from error
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


def push_to_hub(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload the folder, except the file with questions from the notes; returns the URL of the commit.

    Creates the repository if it doesn't exist, private by default; an existing one keeps its visibility. Raises
    DlmError (HubError); the folder stays, so you can try again.
    """
    name = check_hub(repo_id)
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, ignore_patterns=EXPECTED_ANSWERS, commit_message="Upload the merged model"
        )
        return str(commit.commit_url)
    except (HTTPError, OSError, ValueError) as error:
        reason = f"the upload failed: {_one_line(error)}"
        raise _error(name, reason, f"The result is in {folder}; try again.") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _error(repo_id: str, reason: str, hint: str) -> HubError:
    return HubError(f"Can't push to {repo_id!r}: {reason}.", hint=hint)
