"""What `invoke` offers here: the commands of runsdeploy."""

from runsdeploy.namespace import namespace

ns = namespace()
