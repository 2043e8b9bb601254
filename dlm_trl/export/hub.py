"""A folder goes to the Hugging Face Hub (or to the server that HF_ENDPOINT names), after a check that it may.

check_hub("me/notes-merged")        # before the work that makes the folder
push_to_hub(folder, "me/notes-merged")
"""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from dlm_trl.export.verify import EXPECTED_ANSWERS
from dlm_trl.notes.errors import HubError


def check_hub(repo_id: str) -> str:
    """The full name of the repository, with the user's where repo_id has none; nothing is made there.

    Raises DlmError (HubError) for a name that the Hub does not take, where nobody is logged in, and for a namespace
    that the user does not write to.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise _error(repo_id, f"the Hub does not take this name: {_line(error)}", "Write user/name.") from error
    if get_token() is None:
        raise _error(repo_id, "nobody is logged in", "Run `hf auth login`, or set HF_TOKEN.")
    try:
        user = HfApi().whoami()
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise _error(repo_id, f"the Hub does not answer: {_line(error)}", "Check the token and the network.") from error
    owner, _, name = repo_id.rpartition("/")
    spaces = [user["name"], *(org["name"] for org in user.get("orgs", []))]
    if owner and owner not in spaces:
        raise _error(repo_id, f"{user['name']} may write to {', '.join(spaces)} alone", "Choose one of these.")
    return f"{owner or user['name']}/{name}"


def push_to_hub(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload all files of the folder but the questions and answers of the notes; returns the commit's address.

    A repository that does not exist is made, private unless said otherwise; one that exists stays as visible as it is.
    Raises DlmError (HubError); the folder stays whole, so the upload can be tried again.
    """
    name = check_hub(repo_id)
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=name, folder_path=folder, ignore_patterns=EXPECTED_ANSWERS, commit_message="Upload the merged model"
        ).commit_url
    except (HTTPError, OSError, ValueError) as error:
        raise _error(name, f"the upload failed: {_line(error)}", f"The result is in {folder}; try again.") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _error(repo_id: str, why: str, hint: str) -> HubError:
    return HubError(f"Nothing can be pushed to {repo_id!r}: {why}.", hint=hint)
