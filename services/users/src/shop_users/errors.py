"""What can go wrong with users and their sessions."""

from shop_common.errors import Conflict, Forbidden, NotFound, Unauthenticated, Unavailable, UnsupportedMediaType


class UserNotFound(NotFound):
    """Also for users who are there and not the asker's business."""

    code, title = "user_not_found", "No such user"

    def __init__(self) -> None:
        super().__init__("There is no user with this id")


class EmailTaken(Conflict):
    code, title = "email_taken", "Email taken"

    def __init__(self) -> None:
        super().__init__("Another account has this email address", pointer="#/email")


class UsernameTaken(Conflict):
    code, title = "username_taken", "Username taken"

    def __init__(self) -> None:
        super().__init__("Another account has this username", pointer="#/username")


class AccountDeactivated(Conflict):
    code, title = "user_deactivated", "User deactivated"

    def __init__(self) -> None:
        super().__init__("A deactivated user cannot be changed")


class WrongPassword(Forbidden):
    code, title = "wrong_password", "Wrong password"

    def __init__(self) -> None:
        super().__init__("Send your current password to set a new one", pointer="#/current_password")


class InvalidCredentials(Unauthenticated):
    """The same for an unknown name, a wrong password and a deactivated user."""

    code, title = "invalid_credentials", "Invalid credentials"

    def __init__(self) -> None:
        super().__init__("Username or password is wrong")


class InvalidRefreshToken(Unauthenticated):
    """The same for one that is unknown, expired, used before or revoked."""

    code, title = "invalid_refresh_token", "Invalid refresh token"

    def __init__(self) -> None:
        super().__init__("Log in again", error="invalid_token")


class PasswordsBusy(Unavailable):
    code, title = "passwords_busy", "Too many passwords to check"

    def __init__(self) -> None:
        super().__init__("Too many passwords are being checked; try again shortly")


class MergePatchRequired(UnsupportedMediaType):
    code, title = "merge_patch_required", "Merge patch required"

    def __init__(self) -> None:
        super().__init__("Send application/merge-patch+json")
        self.headers["Accept-Patch"] = "application/merge-patch+json"
